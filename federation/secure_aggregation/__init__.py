"""Secure aggregation: the coordinator and c colluders see one total a question, and nothing else.

Base: Bonawitz et al. 2017 (doi 10.1145/3133956.3133982): a mask of one's own and one for each pair,
threshold shares of the former, a signed set of survivors. From Flamingo (Ma et al. 2023, eprint
2023/486): masks of all rounds come from one secret for each pair. PROTOCOL.md specifies it.

Every file computes only; entropy, clock, disk and network are handed in.
"""
