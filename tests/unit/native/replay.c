/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs cases from standard input through the parsers and prints what each found. A
 * case is { u8 kind, u32 length in this machine's order, bytes }. Built with
 * sanitizers, which end the program at the first thing that is not allowed.
 */
#include "parsers.c"
#include <stdio.h>

static int read_case(u8 *kind, u32 *length)
{
	return fread(kind, 1, 1, stdin) == 1 && fread(length, sizeof(*length), 1, stdin) == 1;
}

int main(void)
{
	u8 kind, *bytes;
	u32 length;

	while (read_case(&kind, &length)) {
		bytes = malloc(length ? length : 1);
		if (fread(bytes, 1, length, stdin) != length)
			return 1;
		printf("%016llx\n", examine(kind, bytes, length));
		free(bytes);
	}
	return 0;
}
