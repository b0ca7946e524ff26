/* SPDX-License-Identifier: MIT */
/* The assertions themselves, as far as they hold; programs/failing has the others. */
#include "cases.h"

TEST_CASE(integers_are_compared_as_numbers)
{
	const int8_t small = -1;
	const uint64_t large = UINT64_MAX;

	check_ne(small, large);
	check_lt(small, large);
	check_lt(INT64_MIN, 0u);
	check_ge(large, INT64_MAX);
	check_eq((uint8_t)200, 200L);
	check_eq(true, 1);
	check_eq('a', 97);
}

TEST_CASE(texts_are_compared_by_what_they_say)
{
	char text[] = "abc";
	const char *none = NULL;

	check_eq(text, "abc");
	check_ne(text, "abd");
	check_lt(text, "abcd");
	check_ne(text, none);
	check_eq(none, none);
	check_ne((void *)text, (const void *)"abc");
}

TEST_CASE(each_side_is_evaluated_once)
{
	int left = 0, right = 0;

	assert_eq(++left, ++right);
	check_eq(left, 1);
	check_eq(right, 1);
}

TEST_CASE(half_a_line_does_not_hide_a_result)
{
	print("this line has no end");
}

TEST_CASE(a_case_can_be_skipped)
{
	case_skip("to show what that looks like");
}
