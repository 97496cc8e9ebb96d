// The options of sc-stream, its state file, and its report.
#include "stream.h"

#include <stdlib.h>
#include <string.h>

int set_option(struct options *options, const char *name, const char *value) {
    struct {
        const char *name;
        uint64_t *number;
    } numbers[] = {
        {"seed", &options->seed},           {"bytes", &options->bytes}, {"rate", &options->rate},
        {"period-us", &options->period_us}, {"chunk", &options->chunk}, {"connections", &options->connections},
    };
    if (strcmp(name, "no-read") == 0) {
        options->no_read = 1;
        return 2;
    }
    if (!value)
        return 0;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (strcmp(name, numbers[i].name) == 0) {
            *numbers[i].number = strtoull(value, NULL, 10);
            return 1;
        }
    if (strcmp(name, "seconds") == 0)
        options->seconds = strtod(value, NULL);
    else if (strcmp(name, "corrupt-at") == 0)
        options->corrupt_at = strtoll(value, NULL, 10);
    else if (strcmp(name, "state") == 0)
        options->state = value;
    else
        return 0;
    return 1;
}

int write_state(const struct options *options, const char *path) {
    FILE *file = fopen(path, "we");
    if (!file)
        return -1;
    fprintf(file, "seed=%llu\nrate=%llu\nperiod-us=%llu\nchunk=%llu\n", (unsigned long long)options->seed,
            (unsigned long long)options->rate, (unsigned long long)options->period_us, (unsigned long long)options->chunk);
    return fclose(file) == 0 ? 0 : -1;
}

int read_state(struct options *options, const char *path) {
    FILE *file = fopen(path, "re");
    if (!file)
        return -1;
    char line[256];
    int result = 0;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *equals = strchr(line, '=');
        if (!equals)
            continue;
        *equals = 0;
        if (!set_option(options, line, equals + 1))
            result = -1;
    }
    fclose(file);
    return result;
}

int report(FILE *out, const char *role, const struct connection *connections, int count, int complete) {
    uint64_t sent = 0, received = 0, gap = 0, gap_at = 0;
    int64_t mismatch = -1;
    int failures = 0;
    for (int i = 0; i < count; i++) {
        const struct connection *connection = &connections[i];
        sent += connection->sent;
        received += connection->received;
        if (connection->largest_gap_ns > gap) {
            gap = connection->largest_gap_ns;
            gap_at = connection->gap_at_ns;
        }
        if (connection->mismatch >= 0 && (mismatch < 0 || connection->mismatch < mismatch))
            mismatch = connection->mismatch;
        failures += connection->failed != NULL;
    }
    fprintf(out,
            "{\"role\":\"%s\",\"connections\":%d,\"complete\":%s,\"sent\":%llu,\"received\":%llu,\"mismatch\":%lld,"
            "\"largest_gap_us\":%llu,\"gap_at_us\":%llu,\"errors\":[",
            role, count, complete ? "true" : "false", (unsigned long long)sent, (unsigned long long)received,
            (long long)mismatch, (unsigned long long)gap / 1000, (unsigned long long)gap_at / 1000);
    const char *separator = "";
    for (int i = 0; i < count; i++)
        if (connections[i].failed) {
            fprintf(out, "%s\"%s: %s\"", separator, connections[i].failed, strerrorname_np(connections[i].error));
            separator = ",";
        }
    fprintf(out, "]}\n");
    fflush(out);
    return mismatch >= 0 || failures || !complete;
}
