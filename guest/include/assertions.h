/* SPDX-License-Identifier: MIT */
/*
 * Assertions that say where they stand and which values they met. `assert...` ends the test case that
 * it fails in, and panics outside of one; `check...` is false where it fails, and the case goes on.
 */
#ifndef GUEST_ASSERTIONS_H
#define GUEST_ASSERTIONS_H

#include "guest.h"

/* A value of any integer type, a pointer, or a text: what assert_eq and its like take. */
enum value_kind { VALUE_SIGNED, VALUE_UNSIGNED, VALUE_BOOL, VALUE_POINTER, VALUE_TEXT };

struct value {
	uint64_t bits;
	enum value_kind kind;
};

enum relation { RELATION_EQ, RELATION_NE, RELATION_LT, RELATION_LE, RELATION_GT, RELATION_GE };

static inline struct value value_signed(int64_t value)
{
	return (struct value){(uint64_t)value, VALUE_SIGNED};
}

static inline struct value value_unsigned(uint64_t value)
{
	return (struct value){value, VALUE_UNSIGNED};
}

static inline struct value value_bool(bool value)
{
	return (struct value){value, VALUE_BOOL};
}

static inline struct value value_pointer(const volatile void *value)
{
	return (struct value){(uint64_t)value, VALUE_POINTER};
}

static inline struct value value_text(const char *value)
{
	return (struct value){(uint64_t)value, VALUE_TEXT};
}

#define VALUE(x)                                                                                   \
	_Generic((x), bool: value_bool, char: value_signed, signed char: value_signed,             \
		short: value_signed, int: value_signed, long: value_signed,                        \
		long long: value_signed, unsigned char: value_unsigned,                            \
		unsigned short: value_unsigned, unsigned int: value_unsigned,                      \
		unsigned long: value_unsigned, unsigned long long: value_unsigned,                 \
		char *: value_text, const char *: value_text, default: value_pointer)(x)

bool check_condition(const struct assertion *assertion, bool holds);
bool check_values(const struct assertion *assertion, enum relation relation, struct value left,
		  struct value right);
void assert_values(const struct assertion *assertion, enum relation relation, struct value left,
		   struct value right);

#define RELATION_TEXT(name, left, right) ASSERTION(name "(" left ", " right ")")

#define check(condition) check_condition(ASSERTION(#condition), (condition))

/*
 * Integers are compared as numbers, whatever their types; texts (char *) by what they say, NULL being
 * equal to itself only; other pointers as addresses. Each side is evaluated once.
 */
#define assert_eq(left, right)                                                                     \
	assert_values(RELATION_TEXT("assert_eq", #left, #right), RELATION_EQ, VALUE(left),         \
		      VALUE(right))
#define assert_ne(left, right)                                                                     \
	assert_values(RELATION_TEXT("assert_ne", #left, #right), RELATION_NE, VALUE(left),         \
		      VALUE(right))
#define assert_lt(left, right)                                                                     \
	assert_values(RELATION_TEXT("assert_lt", #left, #right), RELATION_LT, VALUE(left),         \
		      VALUE(right))
#define assert_le(left, right)                                                                     \
	assert_values(RELATION_TEXT("assert_le", #left, #right), RELATION_LE, VALUE(left),         \
		      VALUE(right))
#define assert_gt(left, right)                                                                     \
	assert_values(RELATION_TEXT("assert_gt", #left, #right), RELATION_GT, VALUE(left),         \
		      VALUE(right))
#define assert_ge(left, right)                                                                     \
	assert_values(RELATION_TEXT("assert_ge", #left, #right), RELATION_GE, VALUE(left),         \
		      VALUE(right))
#define check_eq(left, right)                                                                      \
	check_values(RELATION_TEXT("check_eq", #left, #right), RELATION_EQ, VALUE(left),           \
		     VALUE(right))
#define check_ne(left, right)                                                                      \
	check_values(RELATION_TEXT("check_ne", #left, #right), RELATION_NE, VALUE(left),           \
		     VALUE(right))
#define check_lt(left, right)                                                                      \
	check_values(RELATION_TEXT("check_lt", #left, #right), RELATION_LT, VALUE(left),           \
		     VALUE(right))
#define check_le(left, right)                                                                      \
	check_values(RELATION_TEXT("check_le", #left, #right), RELATION_LE, VALUE(left),           \
		     VALUE(right))
#define check_gt(left, right)                                                                      \
	check_values(RELATION_TEXT("check_gt", #left, #right), RELATION_GT, VALUE(left),           \
		     VALUE(right))
#define check_ge(left, right)                                                                      \
	check_values(RELATION_TEXT("check_ge", #left, #right), RELATION_GE, VALUE(left),           \
		     VALUE(right))

#endif
