"""What pytest loads for the installed package, by the entry point `ephemport`.

It is no plugin itself, but names it: so `-p ephemport` and `-p ephemport.pytest_plugin` both work.
pytest refuses a plugin that is registered under two names.
"""

pytest_plugins = ["ephemport.pytest_plugin"]
