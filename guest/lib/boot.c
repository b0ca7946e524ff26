/* SPDX-License-Identifier: MIT */
/* What the boot loader told us: memory map, modules, command line. */
#include "guest.h"

static const struct hvm_start_info *start_info;

void boot_init(const struct hvm_start_info *info)
{
	if (info->magic != PVH_START_MAGIC || info->version < 1)
		panic("no PVH start info with a memory map at 0x%lx: magic 0x%x, version %u",
		      (uint64_t)info, info->magic, info->version);
	start_info = info;
}

const struct hvm_start_info *boot_info(void)
{
	return start_info;
}

const struct memory_range *memory_map(size_t *count)
{
	*count = start_info->memory_map_entries;
	return (const struct memory_range *)start_info->memory_map;
}

const struct hvm_module *boot_modules(size_t *count)
{
	*count = start_info->module_count;
	return (const struct hvm_module *)start_info->modules;
}

const char *command_line(void)
{
	return start_info->command_line ? (const char *)start_info->command_line : "";
}

static const char *next_word(const char *text)
{
	while (*text && *text != ' ')
		text++;
	while (*text == ' ')
		text++;
	return text;
}

static const char *first_word(void)
{
	const char *text = command_line();

	return *text == ' ' ? next_word(text) : text;
}

static bool is_digit(char character)
{
	return character >= '0' && character <= '9';
}

static uint64_t decimal(const char *text)
{
	uint64_t value = 0;

	while (is_digit(*text))
		value = value * 10 + (uint64_t)(*text++ - '0');
	return value;
}

static const char *after_prefix(const char *text, const char *prefix)
{
	while (*prefix)
		if (*text++ != *prefix++)
			return NULL;
	return text;
}

const char *guest_text_option(const char *key, size_t *size)
{
	for (const char *word = first_word(); *word; word = next_word(word)) {
		const char *value = after_prefix(word, key);

		if (value && *value == '=') {
			for (*size = 0, value++; value[*size] && value[*size] != ' ';)
				++*size;
			return value;
		}
	}
	return NULL;
}

uint64_t guest_option(const char *key, uint64_t otherwise)
{
	for (const char *word = first_word(); *word; word = next_word(word)) {
		const char *value = after_prefix(word, key);

		if (value && *value == '=' && is_digit(value[1]))
			return decimal(value + 1);
	}
	return otherwise;
}

uint64_t guest_number(uint64_t otherwise)
{
	for (const char *word = first_word(); *word; word = next_word(word))
		if (is_digit(*word))
			return decimal(word);
	return otherwise;
}
