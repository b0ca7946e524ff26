# SPDX-License-Identifier: MIT
"""Lifetime and pinning: two designs of guest_memfd's lifetime, explored until nothing new is found.

One operation after the other: `designs` are tables of effects (`pyvmm.rules.lifecycle`), `machine`
follows such a table over compact states (`layout`), `explorer` visits every state of a `universe`
and checks `properties` in each; one that does not hold gives the shortest `story`. `holdings` says
who holds whom in a state; `graph` is that as values, with what a step changed, drawn as SVG
(`graph_places`, `graph_svg`) and as text (`graph_text`).

Several at the same time: `programs` are the operations as steps under locks (`locks`, `endings`),
`races` follows every interleaving, also with a lock or a grace period left out.

`claims` asks both for what the mail claims, one by one.
"""
