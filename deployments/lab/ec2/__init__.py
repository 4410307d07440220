"""A cloud on this machine: the EC2 protocol on a loopback address, served by moto behind a layer of ours."""
