"""What a full run (`make test-full`) does beyond a quick one (`make test`)."""

import pytest
from hypothesis import settings

#: whether this is a full run: with `--hypothesis-profile full`
FULL: bool = settings.default.max_examples > 8
#: a test that takes long and repeats with larger networks, or in more combinations, what others assert
full_only = pytest.mark.skipif(not FULL, reason="takes long, and is in `make test-full`")
