/* SPDX-License-Identifier: MIT */
/* The command line: words, numbers and options. */
#include "cases.h"

static const struct hvm_start_info *before;
static struct hvm_start_info pretended;

/* From here on the command line is `text`; `give_back` ends that. */
static void pretend(const char *text)
{
	before = boot_info();
	pretended = *before;
	pretended.command_line = (uint64_t)text;
	boot_init(&pretended);
}

static void give_back(void)
{
	boot_init(before);
}

TEST_CASE(options_are_found_by_their_whole_name)
{
	pretend("  x a=5  b= 12 aa=3 a=6");
	check_eq(guest_option("a", 1000), 5);
	check_eq(guest_option("aa", 1000), 3);
	check_eq(guest_option("b", 1000), 1000);
	check_eq(guest_option("x", 1000), 1000);
	check_eq(guest_number(1000), 12);
	give_back();
}

TEST_CASE(text_options_end_at_a_space)
{
	size_t size = 1000;

	pretend("case= name=one_two case=three");
	const char *value = guest_text_option("name", &size);

	check_eq(size, sizeof("one_two") - 1);
	check(value && value[0] == 'o' && value[size] == ' ');
	/* The first counts, and nothing at all is a value, too. */
	check_ne(guest_text_option("case", &size), NULL);
	check_eq(size, 0);
	check_eq(guest_text_option("nam", &size), NULL);
	give_back();
}

TEST_CASE(no_command_line_is_an_empty_one)
{
	pretend(NULL);
	check_eq(command_line(), "");
	check_eq(guest_option("a", 7), 7);
	check_eq(guest_number(8), 8);
	give_back();
}
