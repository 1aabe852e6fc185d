"""`python -m streamrnn`."""

from streamrnn.cli import main

main()
