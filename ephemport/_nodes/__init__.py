"""Other hosts: an agent that holds ports there, and the channel to it."""
