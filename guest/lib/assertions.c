/* SPDX-License-Identifier: MIT */
/*
 * Failed assertions, in lines of KTAP's diagnostics that the host reads (pyvmm/testing/guest_failures.py):
 *
 *	# NAME: FAILED at FILE:LINE: TEXT
 *	#   left: VALUE
 *	#   right: VALUE
 */
#include "cases.h"

#define TEXT_SHOWN_MAX 200
#define ONE_DIGIT 9

static bool is_printable(char letter)
{
	return letter >= ' ' && letter <= '~';
}

/* In quotes, on one line. */
static void print_text(const char *text)
{
	size_t shown = 0;

	print("\"");
	for (; text[shown] && shown < TEXT_SHOWN_MAX; shown++) {
		char letter = text[shown];

		if (letter == '\n')
			print("\\n");
		else if (letter == '"' || letter == '\\')
			print("\\%c", letter);
		else if (is_printable(letter))
			print("%c", letter);
		else
			print("\\x%02x", (unsigned int)(uint8_t)letter);
	}
	print(text[shown] ? "\"..." : "\"");
}

static void print_value(struct value value)
{
	const bool negative = value.kind == VALUE_SIGNED && (int64_t)value.bits < 0;

	switch (value.kind) {
	case VALUE_BOOL:
		print("%s", value.bits ? "true" : "false");
		break;
	case VALUE_POINTER:
	case VALUE_TEXT:
		if (!value.bits)
			print("NULL");
		else if (value.kind == VALUE_TEXT)
			print_text((const char *)value.bits);
		else
			print("0x%lx", value.bits);
		break;
	case VALUE_SIGNED:
	case VALUE_UNSIGNED:
		if (negative)
			print("%ld", (int64_t)value.bits);
		else
			print("%lu", value.bits);
		if (negative || value.bits > ONE_DIGIT)
			print(" (0x%lx)", value.bits);
	}
}

static bool are_both_texts(struct value left, struct value right)
{
	return left.kind == VALUE_TEXT && right.kind == VALUE_TEXT && left.bits && right.bits;
}

/* Below zero, zero, or above. */
static int compare(struct value left, struct value right)
{
	if (are_both_texts(left, right)) {
		const uint8_t *one = (const uint8_t *)left.bits, *other = (const uint8_t *)right.bits;

		while (*one && *one == *other)
			one++, other++;
		return *one - *other;
	}

	const bool left_negative = left.kind == VALUE_SIGNED && (int64_t)left.bits < 0;
	const bool right_negative = right.kind == VALUE_SIGNED && (int64_t)right.bits < 0;

	if (left_negative != right_negative)
		return left_negative ? -1 : 1;
	/* Of one sign, two's complement has the order of the bits. */
	return (left.bits > right.bits) - (left.bits < right.bits);
}

static bool holds(enum relation relation, struct value left, struct value right)
{
	const int order = compare(left, right);

	switch (relation) {
	case RELATION_EQ:
		return order == 0;
	case RELATION_NE:
		return order != 0;
	case RELATION_LT:
		return order < 0;
	case RELATION_LE:
		return order <= 0;
	case RELATION_GT:
		return order > 0;
	case RELATION_GE:
		return order >= 0;
	}
	return false;
}

static void report(const struct assertion *assertion)
{
	console_begin_line();
	print("# %s: FAILED at %s:%u: %s\n", case_running ? case_running->test->name : "(no case)",
	      assertion->file, assertion->line, assertion->text);
	if (case_running)
		case_running->failed = true;
}

static void report_values(const struct assertion *assertion, struct value left, struct value right)
{
	report(assertion);
	print("#   left: ");
	print_value(left);
	print("\n#   right: ");
	print_value(right);
	print("\n");
}

static _Noreturn void stop(const struct assertion *assertion)
{
	if (case_running)
		case_leave();
	panic("%s:%u: assertion failed: %s", assertion->file, assertion->line, assertion->text);
}

void assertion_failed(const struct assertion *assertion)
{
	if (case_running)
		report(assertion);
	stop(assertion);
}

bool check_condition(const struct assertion *assertion, bool condition)
{
	if (!condition)
		report(assertion);
	return condition;
}

bool check_values(const struct assertion *assertion, enum relation relation, struct value left,
		  struct value right)
{
	const bool held = holds(relation, left, right);

	if (!held)
		report_values(assertion, left, right);
	return held;
}

void assert_values(const struct assertion *assertion, enum relation relation, struct value left,
		   struct value right)
{
	if (!check_values(assertion, relation, left, right))
		stop(assertion);
}
