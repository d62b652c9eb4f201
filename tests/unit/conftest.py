"""Settings of every unit test."""

from hypothesis import settings

# How long an example takes says something about the machine, not about us.
settings.register_profile("waggle", deadline=None)
settings.load_profile("waggle")
