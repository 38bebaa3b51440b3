/* Shared by the parts of the extension `_clocks`. */
#ifndef TAILBUDGET_CLOCKS_H
#define TAILBUDGET_CLOCKS_H

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>
#include <structmember.h>

typedef struct {
    int64_t arrived_ns;
    int64_t asked_ns;
} moment;

/* What the chunks of a stream leave behind; `StreamRecord` is a subclass of it. */
typedef struct {
    PyObject_HEAD
    long long asked_ns;
    char plain, early;
    PyObject *last_chunk;
    PyObject *text, *marks; /* what came so far while `early`, and what ends a sentence */
    long long seen_ns;
    Py_ssize_t text_chunks, most_early;
    moment *kept;
    Py_ssize_t count, room, most;
    Py_ssize_t reckoned; /* of those kept, the first so many have had their asking told */
} clocks;

extern PyTypeObject *clocks_type;

int clocks_add(clocks *self, PyObject *chunk, int64_t arrived_ns);
/* Takes the text of a chunk after which an answer is not usable yet: 1, or 0 where that has to be looked at. */
int clocks_add_early(clocks *self, PyObject *text, int64_t arrived_ns);
/* Answers -1 with an exception where `clock`, a function, raises. */
int64_t read_clock(PyObject *clock);
void give_back(PyObject *self, inquiry clear);
int intern_names(const char *const texts[], PyObject **names[], int count);

int add_clocks(PyObject *module);
int add_loops(PyObject *module);
int add_parts(PyObject *module);
int add_reckoning(PyObject *module);

#endif
