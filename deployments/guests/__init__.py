"""Guest images that are built here, from Debian packages: nothing is downloaded but by apt."""
