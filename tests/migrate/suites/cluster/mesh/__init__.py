from mesh.node import Node, Settings, ask

__all__ = ["Node", "Settings", "ask"]
