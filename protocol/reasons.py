"""Why a worker's contribution is not in an update, in the words that commits carry."""

from __future__ import annotations

NO_OFFER = "no offer before the cut"
NOT_EVERYWHERE = "its parts did not reach every owner"
NOT_IN_TIME = "its contribution did not arrive in time"
MISSED = (NOT_EVERYWHERE, NOT_IN_TIME)
"""It was offered, and its link was too slow."""
