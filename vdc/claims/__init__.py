"""Checks and claims: what may be done is decided here, in one transaction, before anything is touched.

A claim makes no network call, touches no file and never sleeps. A plan is a claim that is rolled back.
"""
