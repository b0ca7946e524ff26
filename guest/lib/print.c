/* SPDX-License-Identifier: MIT */
/* A subset of printf. */
#include "guest.h"

#define DIGITS_MAX 20 /* 2^64 - 1 in decimal */

struct conversion {
	bool is_long;
	char pad;
	unsigned int width;
};

static void write_padded(const char *text, size_t size, const struct conversion *conversion)
{
	for (size_t missing = size; missing < conversion->width; missing++)
		console_write(&conversion->pad, 1);
	console_write(text, size);
}

static void write_number(uint64_t value, unsigned int base, bool negative,
			 const struct conversion *conversion)
{
	char digits[DIGITS_MAX + 1];
	char *const end = digits + sizeof(digits);
	char *first = end;

	do {
		/* Where supervisor code is emulated, each instruction counts. */
		unsigned int digit = base == 16 ? value & 15 : (unsigned int)(value % 10);

		*--first = (char)(digit < 10 ? '0' + digit : 'a' - 10 + digit);
		value = base == 16 ? value >> 4 : value / 10;
	} while (value);
	if (conversion->pad == '0')
		while (first > digits + negative &&
		       (size_t)(end - first) + negative < conversion->width)
			*--first = '0';
	if (negative)
		*--first = '-';
	write_padded(first, (size_t)(end - first), conversion);
}

static const char *parse_conversion(const char *format, struct conversion *conversion)
{
	conversion->pad = *format == '0' ? '0' : ' ';
	for (conversion->width = 0; *format >= '0' && *format <= '9'; format++)
		conversion->width = conversion->width * 10 + (unsigned int)(*format - '0');
	conversion->is_long = *format == 'l';
	return format + conversion->is_long;
}

static size_t length(const char *text)
{
	size_t size = 0;

	while (text[size])
		size++;
	return size;
}

static void write_text(const char *text)
{
	console_write(text, length(text));
}

void print_arguments(const char *format, __builtin_va_list arguments)
{
	for (;;) {
		const char *literal = format;
		struct conversion conversion;

		while (*format && *format != '%')
			format++;
		console_write(literal, (size_t)(format - literal));
		if (!*format)
			return;
		format = parse_conversion(format + 1, &conversion);
		switch (*format++) {
		case 's': {
			const char *text = __builtin_va_arg(arguments, const char *);

			write_padded(text, length(text), &conversion);
			break;
		}
		case 'c': {
			char character = (char)__builtin_va_arg(arguments, int);

			write_padded(&character, 1, &conversion);
			break;
		}
		case 'd': {
			int64_t value = conversion.is_long ? __builtin_va_arg(arguments, int64_t)
							   : __builtin_va_arg(arguments, int);

			write_number(value < 0 ? -(uint64_t)value : (uint64_t)value, 10, value < 0,
				     &conversion);
			break;
		}
		case 'u':
			write_number(conversion.is_long
					     ? __builtin_va_arg(arguments, uint64_t)
					     : __builtin_va_arg(arguments, unsigned int),
				     10, false, &conversion);
			break;
		case 'x':
			write_number(conversion.is_long
					     ? __builtin_va_arg(arguments, uint64_t)
					     : __builtin_va_arg(arguments, unsigned int),
				     16, false, &conversion);
			break;
		case 'p':
			console_write("0x", 2);
			write_number(__builtin_va_arg(arguments, uint64_t), 16, false, &conversion);
			break;
		case '%':
			console_write("%", 1);
			break;
		default:
			/* panic() itself prints. */
			interrupts_off();
			write_text("PANIC: print: unknown conversion '");
			console_write(format - 1, 1);
			write_text("'\n");
			guest_crash();
		}
	}
}

void print(const char *format, ...)
{
	__builtin_va_list arguments;

	__builtin_va_start(arguments, format);
	print_arguments(format, arguments);
	__builtin_va_end(arguments);
}
