"""`python -m maas_rt`: the command line."""

from ._cli import main

raise SystemExit(main())
