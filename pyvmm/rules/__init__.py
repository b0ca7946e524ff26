# SPDX-License-Identifier: MIT
"""KVM's rules for guest memory, each stated once: what is refused and how, what is done.

Plain functions over small frozen values. A request (`creation`, `memslots`, `files`, `attributes`)
is judged by an ordered list of `Rule`s; the first that refuses gives the errno. `access` says what
serves a guest's or the host's access. `lifecycle` says what creating, binding, closing and freeing
do to who holds whom. Where kernels differ, `Profile` names the behaviour.

Numbers are real ones: bytes, GPAs, file offsets, flag bits; ends are exclusive.
"""
