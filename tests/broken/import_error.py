"""A plugin that imports what is not installed."""

import a_module_that_is_nowhere  # noqa: F401

import nasframe


@nasframe.hookimpl
def nasframe_parts():
    return []
