"""`python -m densecell_batch`: the same as the command `densecell-batch`."""

from densecell_batch.cli import main

main()
