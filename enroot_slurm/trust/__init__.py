"""Which images may be used: the site's policy, the signatures it asks for, and the site's own programs.

It knows names, digests and bytes, and asks no network: whoever calls it hands in an `evidence.EvidenceSource`.
"""
