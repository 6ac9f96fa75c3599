import sys

from lab4_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
