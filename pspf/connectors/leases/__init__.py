"""Balancing by leases: the sessions of an ordered handler divide its partitions, where the broker assigns none.

session.py   LeasedSession: a session whose assigned cursors are balanced by leases
balance.py   LeaseBalance: takes what is free up to the share, gives back what is beyond it
leases.py    Leases: who the members are, what is free, taking a lease; each broker has its own
shares.py    shares, what to give back, what nobody reads: no I/O
"""
