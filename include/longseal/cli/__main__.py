import sys

from longseal.cli import main

sys.exit(main())
