"""All rows, in the order of the table."""

from tests.servers import databases, frameworks, languages, stdlib, torch, udp, web

ROWS = [
    *stdlib.ROWS,
    *frameworks.ROWS,
    *web.ROWS,
    *databases.ROWS,
    *languages.ROWS,
    *udp.ROWS,
    *torch.ROWS,
]
