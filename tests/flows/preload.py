"""All flows: imported once by the server that test processes are forked from (tests/flows/processes.py)."""

import deployments.burnin.course  # noqa: F401
import flows.delete_image
import flows.deploy
import flows.enroll_host
import flows.import_image
import flows.migrate
import flows.power
import flows.reconcile
import flows.release
import flows.save_image
import flows.scale_test
import flows.terminate  # noqa: F401
