"""For all tests: property tests have no deadline, since a busy machine would break it and tell nothing."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("sifthinker", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sifthinker")
