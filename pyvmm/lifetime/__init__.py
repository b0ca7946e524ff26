"""Who pins whom: two designs of guest_memfd's lifetime, explored until nothing new is found.

`designs` has the designs as tables of effects; `machine` follows such a table over compact states
(`layout`); `explorer` visits every state of a `universe` and checks `properties` in each; one that
does not hold gives the shortest `story`. `locks` and what is built on it do the same for
operations that run at the same time, step by step under their locks. `claims` asks both explorers
what the mail claims, one by one.
"""
