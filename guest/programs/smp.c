/* SPDX-License-Identifier: MIT */
/*
 * Every CPU converts memory at once: pages of its own, whose contents it knows, and pages of all, whose
 * contents are whatever somebody wrote last, or zero. seed=N, rounds=N: how often each of them;
 * pages=N: of its own; host=1: until the host has had enough, which may then convert all of it, too;
 * in-place=1: contents survive conversions.
 */
#include "guest.h"
#include "mailbox.h"
#include "pattern.h"
#include "private.h"
#include "smp.h"

#define PATTERN 1
#define COMMON_PAGES 64
#define LONGEST 8
#define OWN_PAGES_MAX 1024

/* Knuth's MMIX; the upper bits are the good ones. */
#define MULTIPLIER 6364136223846793005
#define INCREMENT 1442695040888963407

GUEST_NEEDS(0);

struct worker {
	struct span own;
	uint64_t random, rounds;
	uint64_t conversions;
	uint64_t wrong; /* the address of what should not be, or NOTHING_WRONG */
	int64_t refused; /* what a conversion answered */
};

static struct worker workers[BOOT_CPUS_MAX];
static struct span common;
static bool with_host;
static volatile bool stop;

static uint64_t random(struct worker *worker, uint64_t below)
{
	worker->random = worker->random * MULTIPLIER + INCREMENT;
	return (worker->random >> 33) % below;
}

/* Some pages of `area`, next to each other. */
static struct span some_pages(struct worker *worker, const struct span *area)
{
	uint64_t pages = (area->end - area->start) / PAGE_SIZE;
	uint64_t first = random(worker, pages);
	uint64_t longest = pages - first < LONGEST ? pages - first : LONGEST;
	uint64_t start = area->start + first * PAGE_SIZE;

	return (struct span){start, start + (1 + random(worker, longest)) * PAGE_SIZE};
}

static bool convert(struct worker *worker, const struct span *span, bool share)
{
	uint64_t size = span->end - span->start;

	worker->refused = share ? memory_share(span->start, size)
				: memory_unshare(span->start, size);
	worker->conversions++;
	return !worker->refused;
}

static bool check(struct worker *worker, uint64_t wrong)
{
	if (worker->wrong == NOTHING_WRONG)
		worker->wrong = wrong;
	return wrong == NOTHING_WRONG;
}

/* Contents that others may be about to change: whole words, zero or as somebody wrote them. */
static uint64_t mixed_wrong(const struct span *span)
{
	for (uint64_t address = span->start; address < span->end; address += 8) {
		uint64_t word = *(volatile uint64_t *)address;

		if (word && word != pattern_at(address, PATTERN))
			return address;
	}
	return NOTHING_WRONG;
}

/* Pages of this CPU's own that it has just converted: zero, or what it had written before. */
static bool check_converted(struct worker *worker, const struct span *span)
{
	if (with_host)
		return check(worker, mixed_wrong(span));
	return check(worker,
		     contents_survive() ? pattern_wrong(span, PATTERN) : zero_wrong(span));
}

/* There and back, so that the pages are private between rounds. */
static bool convert_own(struct worker *worker)
{
	const struct span span = some_pages(worker, &worker->own);

	pattern_fill(&span, PATTERN);
	if (!convert(worker, &span, true) || !check_converted(worker, &span))
		return false;
	pattern_fill(&span, PATTERN);
	if (!check(worker, with_host ? mixed_wrong(&span) : pattern_wrong(&span, PATTERN)) ||
	    !convert(worker, &span, false))
		return false;
	return check_converted(worker, &span);
}

static bool convert_common(struct worker *worker)
{
	const struct span span = some_pages(worker, &common);
	const struct span page = {span.start, span.start + PAGE_SIZE};

	if (!convert(worker, &span, random(worker, 2)) || !check(worker, mixed_wrong(&page)))
		return false;
	pattern_fill(&page, PATTERN);
	return check(worker, mixed_wrong(&page));
}

static void work(unsigned int cpu, void *argument)
{
	struct worker *worker = argument;

	for (uint64_t i = 0; with_host || i < worker->rounds; i++) {
		/* CPU 0 is the one that talks to the host. */
		if (with_host && !cpu && mailbox_has_request())
			stop = true;
		if (stop || !convert_own(worker) || !convert_common(worker))
			break;
	}
	if (worker->wrong != NOTHING_WRONG || worker->refused)
		stop = true;
}

static void take_memory(void)
{
	uint64_t pages = guest_option("pages", 16);
	uint64_t own = pages * PAGE_SIZE;
	struct span area;

	if (!pages || pages > OWN_PAGES_MAX ||
	    !memory_take(COMMON_PAGES * PAGE_SIZE + cpu_count() * own, PAGE_SIZE, &area))
		panic("no room for %lu pages for each of %u CPUs", pages, cpu_count());
	common = (struct span){area.start, area.start + COMMON_PAGES * PAGE_SIZE};
	for (unsigned int cpu = 0; cpu < cpu_count(); cpu++) {
		uint64_t start = common.end + cpu * own;

		workers[cpu] = (struct worker){
			.own = {start, start + own},
			.random = guest_option("seed", 1) + cpu,
			.rounds = guest_option("rounds", 200),
			.wrong = NOTHING_WRONG,
		};
	}
	print("%u CPUs, common %010lx-%010lx, own %010lx-%010lx\n", cpu_count(), common.start,
	      common.end, common.end, common.end + cpu_count() * own);
}

static void run_all(void)
{
	for (unsigned int cpu = 1; cpu < cpu_count(); cpu++)
		cpu_start(cpu, work, &workers[cpu]);
	work(0, &workers[0]);
	for (unsigned int cpu = 1; cpu < cpu_count(); cpu++)
		cpu_join(cpu);
}

static bool report(void)
{
	uint64_t conversions = 0;

	for (unsigned int cpu = 0; cpu < cpu_count(); cpu++) {
		const struct worker *worker = &workers[cpu];

		conversions += worker->conversions;
		if (worker->refused) {
			print("CPU %u: a conversion is refused: %ld\n", cpu, worker->refused);
			return false;
		}
		if (worker->wrong != NOTHING_WRONG) {
			print("CPU %u: wrong contents at 0x%lx\n", cpu, worker->wrong);
			return false;
		}
	}
	print("%lu conversions\n", conversions);
	return true;
}

/* The first address of `span`, which has been shared, that holds neither zero nor what survives. */
static uint64_t shared_wrong(const struct span *span)
{
	return contents_survive() ? pattern_wrong(span, PATTERN) : zero_wrong(span);
}

/* Everything shared, so that nothing private is left, then private: all of it is zero. */
static bool settle(void)
{
	const struct span all = {common.start, workers[cpu_count() - 1].own.end};
	uint64_t size = all.end - all.start;

	if (memory_share(all.start, size) || memory_unshare(all.start, size)) {
		print("the last conversions are refused\n");
		return false;
	}
	if (!contents_survive() && zero_wrong(&all) != NOTHING_WRONG) {
		print("not zero at last: 0x%lx\n", zero_wrong(&all));
		return false;
	}
	pattern_fill(&all, PATTERN);
	for (uint64_t page = common.start; page < common.end; page += 2 * PAGE_SIZE) {
		const struct span span = {page, page + PAGE_SIZE};

		if (memory_share(page, PAGE_SIZE) || shared_wrong(&span) != NOTHING_WRONG) {
			print("not shared, or wrong: 0x%lx\n", page);
			return false;
		}
	}
	return true;
}

static bool verify(void)
{
	const struct span own = {common.end, workers[cpu_count() - 1].own.end};

	for (uint64_t page = common.start; page < common.end; page += PAGE_SIZE) {
		const struct span span = {page, page + PAGE_SIZE};
		bool is_shared = (page - common.start) / PAGE_SIZE % 2 == 0;
		uint64_t wrong = is_shared ? shared_wrong(&span) : pattern_wrong(&span, PATTERN);

		if (wrong != NOTHING_WRONG) {
			print("wrong at last: 0x%lx\n", wrong);
			return false;
		}
	}
	if (pattern_wrong(&own, PATTERN) != NOTHING_WRONG) {
		print("wrong at last: 0x%lx\n", pattern_wrong(&own, PATTERN));
		return false;
	}
	print("every second common page is shared and %s, all others are private and as written\n",
	      contents_survive() ? "as written" : "zero");
	return true;
}

int guest_main(void)
{
	if (!private_memory_needed())
		return EXIT_NOT_PRIVATE;
	with_host = guest_option("host", 0);
	take_memory();
	if (with_host)
		mailbox_open();
	run_all();
	if (!report())
		return EXIT_FAILURE;
	/* The host looks at each page through our eyes, and ends that. */
	if (with_host)
		return (int)(mailbox_serve() & EXIT_STATUS_MAX);
	return settle() && verify() ? EXIT_SUCCESS : EXIT_FAILURE;
}
