/* SPDX-License-Identifier: MIT */
/* Nothing is exported: with this, position-independent code needs no global offset table. */
#pragma GCC visibility push(hidden)
