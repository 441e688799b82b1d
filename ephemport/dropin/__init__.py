"""Other libraries' names over our holds: change an import, or load a plugin, and nothing else.

`fixtures` is a pytest plugin with the fixtures of pytest-asyncio, aiohttp and anyio. `portpicker`,
`ephemeral_port_reserve` and `port_for` are modules to import in place of those. None of them needs
the library that it replaces. `_kept` says how long a port is held, and which servers get in.
"""
