/* Runs kernels of code images: started under an emulator by `emulate.rs`, which speaks with it through pipes.
 *
 * All numbers are 64 bits wide, little-endian. Messages, until the input ends:
 *   1, length, bytes                                    an image takes the place of the one before
 *   2, entry, number of buffers, each as length, bytes,
 *      number of arguments, each as buffer, offset,
 *      number of dims, dims, begin, end                 a launch; the answer is 2 and the bytes of all buffers
 *
 * Ends with 0 at the end of the input, with 3 if that comes too early, with 4 if memory or an index is wrong. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { LOAD = 1, RUN = 2, ALIGN = 64 };

typedef void (*entry_fn)(uint8_t *const *bufs, const int64_t *dims, int64_t begin, int64_t end);

static void take(void *to, size_t length) {
    if (length > 0 && fread(to, 1, length, stdin) != length)
        exit(3);
}

static uint64_t word(void) {
    uint64_t value;
    take(&value, sizeof value);
    return value;
}

static void *memory(uint64_t count, size_t size) {
    void *at = NULL;
    if (count > SIZE_MAX / 2 / size || posix_memalign(&at, ALIGN, count * size + 1) != 0)
        exit(4);
    return at;
}

static uint8_t *load(uint64_t *length, uint8_t *before) {
    /* One byte more than asked for: a mapping is not empty. */
    if (before != NULL)
        munmap(before, *length + 1);
    *length = word();
    uint8_t *image = mmap(NULL, *length + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (image == MAP_FAILED)
        exit(4);
    take(image, *length);
    if (mprotect(image, *length + 1, PROT_READ | PROT_EXEC) != 0)
        exit(4);
    /* What was written as data may not be in the cache of instructions yet. */
    __builtin___clear_cache((char *)image, (char *)image + *length);
    return image;
}

static void run(uint8_t *image, uint64_t length) {
    uint64_t entry = word();
    if (image == NULL || entry >= length)
        exit(4);

    uint64_t n_buffers = word();
    uint8_t **buffers = memory(n_buffers, sizeof *buffers);
    uint64_t *lengths = memory(n_buffers, sizeof *lengths);
    for (uint64_t i = 0; i < n_buffers; i++) {
        lengths[i] = word();
        buffers[i] = memory(lengths[i], 1);
        take(buffers[i], lengths[i]);
    }

    uint64_t n_args = word();
    uint8_t **args = memory(n_args, sizeof *args);
    for (uint64_t i = 0; i < n_args; i++) {
        uint64_t buffer = word(), offset = word();
        if (buffer >= n_buffers || offset > lengths[buffer])
            exit(4);
        args[i] = buffers[buffer] + offset;
    }

    uint64_t n_dims = word();
    int64_t *dims = memory(n_dims, sizeof *dims);
    take(dims, n_dims * sizeof *dims);
    int64_t begin = (int64_t)word(), end = (int64_t)word();

    ((entry_fn)(uintptr_t)(image + entry))(args, dims, begin, end);

    uint64_t done = RUN;
    if (fwrite(&done, sizeof done, 1, stdout) != 1)
        exit(4);
    for (uint64_t i = 0; i < n_buffers; i++) {
        if (fwrite(buffers[i], 1, lengths[i], stdout) != lengths[i])
            exit(4);
        free(buffers[i]);
    }
    fflush(stdout);
    free(buffers);
    free(lengths);
    free(args);
    free(dims);
}

int main(void) {
    uint8_t *image = NULL;
    uint64_t length = 0, message;
    while (fread(&message, sizeof message, 1, stdin) == 1) {
        if (message == LOAD)
            image = load(&length, image);
        else if (message == RUN)
            run(image, length);
        else
            return 4;
    }
    return 0;
}
