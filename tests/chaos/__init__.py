"""Chaos: whole trainings in which everything fails that can, each from one seed.

    python -m tests.chaos --schedules 10000     seeds 0 to 9,999, and a table of what happened
    python -m tests.chaos --seed 17             one of them again, with the trace of its events
    python -m tests.chaos --processes 25        real processes, killed, stopped and starved

A schedule (`schedule.run`) is one federation in one process: the institutions, the coordinator and
SQLite are real; disk, clock, entropy and the carrier between them obey the seed (`world`). An
observer who sees every byte and every durable state says what was broken (`observer`). That he
would notice is shown by `mutants`.
"""
