"""What ephemport costs and what it saves, measured beside everything else that picks ports.

`python -m benchmarks` runs all questions; `python -m benchmarks.report` draws the answers.
"""
