"""Plan after plan over real processes, and what that leaves behind: memory, files, descriptors.

    python -m tests.soak --minutes 20

Start reading at `site.soak`, which runs the plans; `sampling` looks at processes and directories,
`figures` makes figures of what was seen and says which of them are not allowed.
"""
