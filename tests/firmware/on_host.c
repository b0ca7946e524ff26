/* SPDX-License-Identifier: MIT */
/*
 * The firmware's SHA-384 and its look at a boot block, asked by a test. A question is a kind, a u64
 * size, a u64 step, and as many bytes; the answer to "hash", fed in steps, is a digest; that to
 * "check" is where the complaint is, as a u64, all ones for none.
 */
#include <stdio.h>
#include <stdlib.h>

#include "block.h"
#include "sha384.h"

static void answer(const void *bytes, size_t size)
{
	if (fwrite(bytes, 1, size, stdout) != size || fflush(stdout) != 0)
		exit(2);
}

static void hash(const uint8_t *bytes, size_t size, size_t step)
{
	struct sha384 sha;
	uint8_t digest[DIGEST_BYTES];

	sha384_start(&sha);
	for (size_t done = 0; done < size; done += step)
		sha384_add(&sha, bytes + done, step < size - done ? step : size - done);
	sha384_end(&sha, digest);
	answer(digest, sizeof(digest));
}

static void check(const uint8_t *bytes, size_t size)
{
	struct complaint complaint = check_block(bytes, size);
	uint64_t where = complaint.what == NULL ? UINT64_MAX : complaint.where;

	answer(&where, sizeof(where));
}

int main(void)
{
	struct {
		uint64_t kind, size, step;
	} question;

	while (fread(&question, sizeof(question), 1, stdin) == 1) {
		/* Of exactly this size, so that whoever looks beyond it is found out. */
		uint8_t *bytes = malloc(question.size + 1);

		if (bytes == NULL || fread(bytes, 1, question.size, stdin) != question.size)
			return 1;
		bytes = realloc(bytes, question.size != 0 ? question.size : 1);
		if (bytes == NULL)
			return 1;
		if (question.kind == 0)
			hash(bytes, question.size, question.step);
		else
			check(bytes, question.size);
		free(bytes);
	}
	return 0;
}
