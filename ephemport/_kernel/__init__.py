"""What the kernel says: sockets, processes, the ephemeral port range, network namespaces.

Readers over netlink, ``/proc`` and three system calls. They know nothing of reservations.
"""
