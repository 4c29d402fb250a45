"""`atoll`, but for a trainer that does nothing: for the tests of audits. `python -m free_rider join ...`"""

from __future__ import annotations

from atoll.cli.main import main
from atoll.node import trainer

trainer.STARTED = "free_rider_trainer"

if __name__ == "__main__":
    main()
