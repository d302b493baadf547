"""python -m sppim_core is the command sppim."""

from sppim_core.cli import main

raise SystemExit(main())
