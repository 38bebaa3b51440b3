/* The loops over a stream: they ask the source, stamp, and hand the chunk on. */
#include "clocks.h"

typedef struct {
    PyObject_HEAD
    PyObject *source, *wrapper, *clock;
    clocks *record;
    PyObject *spare; /* of an asynchronous loop: the last step, for the next chunk */
    unaryfunc next; /* of the source's own iterator, which takes its place at the first chunk; NULL before */
    char closed;
} loop;

/* What an asynchronous loop's `__anext__` answers: an awaitable around the source's own, for one chunk. */
typedef struct {
    PyObject_HEAD
    loop *of; /* NULL when it is over, as is the next */
    PyObject *awaited;
    char begun;
} step;

static PyTypeObject *step_type;
static PyObject *name_see, *name_fail, *name_throw, *name_close, *name_choices, *name_delta, *name_content;

/* Return `chunk.choices[0].delta.content`, NULL with an exception for a chunk of another shape. */
static PyObject *content_of(PyObject *chunk) {
    PyObject *const names[] = {name_delta, name_content};
    PyObject *at = NULL, *choices = PyObject_GetAttr(chunk, name_choices);
    if (choices) at = PySequence_GetItem(choices, 0);
    Py_XDECREF(choices);
    for (int i = 0; at && i < 2; i++) {
        PyObject *below = PyObject_GetAttr(at, names[i]);
        Py_DECREF(at);
        at = below;
    }
    return at;
}

/* Whether nothing but the clocks of a chunk is wanted, its text being taken; -1 for an interrupt. */
static int is_usual(clocks *record, PyObject *chunk, int64_t arrived_ns) {
    if (!(record->plain || record->early) || record->count >= record->most) return 0;
    PyObject *content = content_of(chunk);
    int found = -1;
    if (content) found = record->plain ? PyObject_IsTrue(content) : clocks_add_early(record, content, arrived_ns);
    Py_XDECREF(content);
    if (found < 0 && PyErr_ExceptionMatches(PyExc_Exception)) { /* `see` reads it with more care */
        PyErr_Clear();
        return 0;
    }
    return found;
}

/* Take the chunk that came now. */
static int take(loop *self, PyObject *chunk) {
    clocks *record = self->record;
    int64_t arrived_ns = read_clock(self->clock);
    if (arrived_ns == -1 && PyErr_Occurred()) return -1;
    int usual = is_usual(record, chunk, arrived_ns);
    if (usual) return usual < 0 ? -1 : clocks_add(record, chunk, arrived_ns);
    PyObject *at_ns = PyLong_FromLongLong(arrived_ns);
    PyObject *done = at_ns ? PyObject_CallMethodObjArgs((PyObject *)record, name_see, chunk, at_ns, NULL) : NULL;
    Py_XDECREF(at_ns);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

static int stamp_asked(loop *self) {
    int64_t asked_ns = read_clock(self->clock);
    if (asked_ns == -1 && PyErr_Occurred()) return -1;
    self->record->asked_ns = asked_ns;
    return 0;
}

/* Let the wrapper end the record with the exception that is set, which stays set. */
static void fail(loop *self) {
    PyObject *kind, *error, *trace;
    PyErr_Fetch(&kind, &error, &trace);
    PyErr_NormalizeException(&kind, &error, &trace);
    if (trace) PyException_SetTraceback(error, trace);
    PyObject *done = PyObject_CallMethodObjArgs(self->wrapper, name_fail, error, NULL);
    if (done) {
        Py_DECREF(done);
        PyErr_Restore(kind, error, trace);
    } else { /* an interrupt, or in tests an error of ours */
        Py_XDECREF(kind);
        Py_XDECREF(error);
        Py_XDECREF(trace);
    }
}

static PyObject *loop_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    PyObject *source, *wrapper, *record, *clock;
    if (!PyArg_ParseTuple(args, "OOO!O", &source, &wrapper, clocks_type, &record, &clock)) return NULL;
    loop *self = (loop *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (!self) return NULL;
    self->source = Py_NewRef(source);
    self->wrapper = Py_NewRef(wrapper);
    self->record = (clocks *)Py_NewRef(record);
    self->clock = Py_NewRef(clock);
    return (PyObject *)self;
}

/* Ask for the source's iterator as `for` and `async for` do: a proxy may have a `__next__` that its type does not. */
static int begin(loop *self, PyObject *iterator, int slot) {
    if (!iterator) return -1;
    self->next = (unaryfunc)PyType_GetSlot(Py_TYPE(iterator), slot);
    if (!self->next) {
        PyErr_Format(PyExc_TypeError, "%R is no iterator of this kind", iterator);
        Py_DECREF(iterator);
        return -1;
    }
    PyObject *source = self->source;
    self->source = iterator;
    Py_DECREF(source);
    return 0;
}

static PyObject *async_iterator(PyObject *source) {
    unaryfunc make = (unaryfunc)PyType_GetSlot(Py_TYPE(source), Py_am_aiter);
    return make ? make(source) : PyErr_Format(PyExc_TypeError, "%R has no __aiter__", source);
}

static int loop_traverse(PyObject *object, visitproc visit, void *arg) {
    loop *self = (loop *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->source);
    Py_VISIT(self->wrapper);
    Py_VISIT((PyObject *)self->record);
    Py_VISIT(self->clock);
    Py_VISIT(self->spare);
    return 0;
}

static int loop_clear(PyObject *object) {
    loop *self = (loop *)object;
    self->closed = true;
    Py_CLEAR(self->source);
    Py_CLEAR(self->wrapper);
    Py_CLEAR(self->record);
    Py_CLEAR(self->clock);
    Py_CLEAR(self->spare);
    return 0;
}

static void loop_dealloc(PyObject *object) { give_back(object, loop_clear); }

static PyObject *close_loop(PyObject *object, PyObject *unused) {
    (void)unused;
    ((loop *)object)->closed = true;
    Py_RETURN_NONE;
}

static PyMethodDef loop_methods[] = {{"close", close_loop, METH_NOARGS, NULL}, {0}};

static PyObject *sync_next(PyObject *object) {
    loop *self = (loop *)object;
    if (self->closed || stamp_asked(self) < 0) return NULL;
    bool begun = self->next || begin(self, PyObject_GetIter(self->source), Py_tp_iternext) == 0;
    PyObject *chunk = begun ? self->next(self->source) : NULL;
    if (chunk) {
        if (take(self, chunk) == 0) return chunk;
        Py_DECREF(chunk);
    }
    if (!PyErr_Occurred()) PyErr_SetNone(PyExc_StopIteration); /* an end needs no exception, `fail` does */
    fail(self);
    return NULL;
}

static PyType_Slot sync_slots[] = {
    {Py_tp_new, loop_new},         {Py_tp_dealloc, loop_dealloc},   {Py_tp_traverse, loop_traverse}, {Py_tp_clear, loop_clear},
    {Py_tp_methods, loop_methods}, {Py_tp_iter, PyObject_SelfIter}, {Py_tp_iternext, sync_next},     {0},
};
static PyType_Spec sync_spec = {
    "tailbudget.instrument._clocks.Loop", sizeof(loop), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, sync_slots,
};

/* Return the iterator behind an awaitable, as `await` finds it. */
static PyObject *awaited_by(PyObject *awaitable) {
    PyTypeObject *type = Py_TYPE(awaitable);
    if (PyType_GetSlot(type, Py_am_send)) return Py_NewRef(awaitable); /* a coroutine: needs nothing around it */
    unaryfunc await = (unaryfunc)PyType_GetSlot(type, Py_am_await);
    if (await) return await(awaitable);
    return PyErr_Format(PyExc_TypeError, "object %R can't be used in 'await' expression", awaitable);
}

static PyObject *async_anext(PyObject *object) {
    loop *self = (loop *)object;
    if (self->closed) return PyErr_SetNone(PyExc_StopAsyncIteration), NULL;
    if (stamp_asked(self) < 0) return NULL;
    bool begun = self->next || begin(self, async_iterator(self->source), Py_am_anext) == 0;
    PyObject *awaitable = begun ? self->next(self->source) : NULL;
    PyObject *awaited = awaitable ? awaited_by(awaitable) : NULL;
    Py_XDECREF(awaitable);
    if (!awaited) return fail(self), NULL;
    step *one = (step *)self->spare;
    if (one && Py_REFCNT((PyObject *)one) == 1) /* nobody else has the last one any more */
        self->spare = NULL;
    else if (!(one = (step *)((allocfunc)PyType_GetSlot(step_type, Py_tp_alloc))(step_type, 0)))
        return Py_DECREF(awaited), NULL;
    one->of = (loop *)Py_NewRef(object);
    one->awaited = awaited;
    one->begun = false;
    return (PyObject *)one;
}

static PyType_Slot async_slots[] = {
    {Py_tp_new, loop_new},         {Py_tp_dealloc, loop_dealloc},    {Py_tp_traverse, loop_traverse}, {Py_tp_clear, loop_clear},
    {Py_tp_methods, loop_methods}, {Py_am_aiter, PyObject_SelfIter}, {Py_am_anext, async_anext},      {0},
};
static PyType_Spec async_spec = {
    "tailbudget.instrument._clocks.AsyncLoop", sizeof(loop), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, async_slots,
};

static int step_traverse(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(object));
    Py_VISIT((PyObject *)((step *)object)->of);
    Py_VISIT(((step *)object)->awaited);
    return 0;
}

static int step_clear(PyObject *object) {
    Py_CLEAR(((step *)object)->of);
    Py_CLEAR(((step *)object)->awaited);
    return 0;
}

static void step_dealloc(PyObject *object) { give_back(object, step_clear); }

/* Take the chunk, or fail with the exception that is set; the step is over and the loop may have it again. Answers the
 * chunk, which it is given, or NULL. */
static PyObject *over(step *self, PyObject *chunk) {
    loop *of = self->of;
    PyObject *awaited = self->awaited;
    if (!of) return chunk; /* what it awaits asked it again */
    self->of = NULL;
    self->awaited = NULL;
    if (chunk && take(of, chunk) < 0) Py_CLEAR(chunk);
    if (!chunk) fail(of);
    if (!of->spare && !of->closed) of->spare = Py_NewRef((PyObject *)self);
    Py_XDECREF(awaited);
    Py_DECREF((PyObject *)of);
    return chunk;
}

static bool is_over(step *self) {
    if (!self->of) PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited __anext__()");
    self->begun = true;
    return !self->of;
}

static PySendResult step_send(PyObject *object, PyObject *value, PyObject **result) {
    step *self = (step *)object;
    *result = NULL;
    if (is_over(self)) return PYGEN_ERROR;
    PyObject *awaited = Py_NewRef(self->awaited);
    PySendResult how = PyIter_Send(awaited, value, result);
    Py_DECREF(awaited);
    if (how == PYGEN_NEXT) return how;
    *result = over(self, *result);
    return *result ? PYGEN_RETURN : PYGEN_ERROR;
}

/* Raise StopIteration with this value, whatever it is; takes the value. */
static PyObject *returned(PyObject *value) {
    PyObject *stop_iteration = PyObject_CallFunctionObjArgs(PyExc_StopIteration, value, NULL);
    if (stop_iteration) PyErr_SetObject(PyExc_StopIteration, stop_iteration);
    Py_XDECREF(stop_iteration);
    Py_DECREF(value);
    return NULL;
}

static PyObject *send(PyObject *object, PyObject *value) {
    PyObject *result;
    PySendResult how = step_send(object, value, &result);
    return how == PYGEN_RETURN ? returned(result) : result;
}

static PyObject *step_next(PyObject *object) { return send(object, Py_None); }

/* Return the value of the StopIteration that is set. */
static PyObject *value_of_stop(void) {
    PyObject *kind, *error, *trace;
    PyErr_Fetch(&kind, &error, &trace);
    PyErr_NormalizeException(&kind, &error, &trace);
    PyObject *value = PyObject_GetAttrString(error, "value");
    Py_XDECREF(kind);
    Py_XDECREF(error);
    Py_XDECREF(trace);
    return value;
}

/* Raise what `throw` was given, for an iterator that has none. */
static void raise_here(PyObject *args) {
    PyObject *kind, *value = NULL, *trace = NULL;
    if (!PyArg_ParseTuple(args, "O|OO", &kind, &value, &trace)) return;
    if (PyExceptionInstance_Check(kind))
        PyErr_SetObject((PyObject *)Py_TYPE(kind), kind);
    else
        PyErr_SetObject(kind, value);
}

static PyObject *throw_into(PyObject *object, PyObject *args) {
    step *self = (step *)object;
    if (is_over(self)) return NULL;
    PyObject *result = NULL, *method = PyObject_GetAttr(self->awaited, name_throw);
    if (method) {
        result = PyObject_CallObject(method, args);
        Py_DECREF(method);
        if (result) return result; /* it awaits on */
    } else if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        raise_here(args);
    }
    if (PyErr_ExceptionMatches(PyExc_StopIteration)) result = value_of_stop(); /* it had a chunk all the same */
    result = over(self, result);
    return result ? returned(result) : NULL;
}

static PyObject *close_step(PyObject *object, PyObject *unused) {
    (void)unused;
    step *self = (step *)object;
    if (!self->of) Py_RETURN_NONE;
    PyObject *awaited = Py_NewRef(self->awaited);
    PyObject *done = PyObject_CallMethodObjArgs(awaited, name_close, NULL);
    Py_DECREF(awaited);
    Py_XDECREF(done);
    if (!done && PyErr_ExceptionMatches(PyExc_AttributeError)) PyErr_Clear(); /* an iterator that has none */
    if (!PyErr_Occurred()) {
        if (!self->begun) return step_clear(object), Py_NewRef(Py_None); /* nobody waited for a chunk */
        PyErr_SetNone(PyExc_GeneratorExit);
    }
    over(self, NULL);
    if (!PyErr_ExceptionMatches(PyExc_GeneratorExit)) return NULL;
    PyErr_Clear();
    Py_RETURN_NONE;
}

static PyMethodDef step_methods[] = {
    {"send", send, METH_O, NULL},
    {"throw", throw_into, METH_VARARGS, NULL},
    {"close", close_step, METH_NOARGS, NULL},
    {0},
};
static PyType_Slot step_slots[] = {
    {Py_tp_dealloc, step_dealloc},    {Py_tp_traverse, step_traverse}, {Py_tp_clear, step_clear},
    {Py_tp_methods, step_methods},    {Py_am_send, step_send},         {Py_am_await, PyObject_SelfIter},
    {Py_tp_iter, PyObject_SelfIter},  {Py_tp_iternext, step_next},     {0},
};
static PyType_Spec step_spec = {
    "tailbudget.instrument._clocks.Step", sizeof(step), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, step_slots,
};

int add_loops(PyObject *module) {
    const char *const texts[] = {"see", "_fail", "throw", "close", "choices", "delta", "content"};
    PyObject **names[] = {&name_see, &name_fail, &name_throw, &name_close, &name_choices, &name_delta, &name_content};
    if (intern_names(texts, names, 7) < 0) return -1;
    PyObject *types[] = {
        PyType_FromModuleAndSpec(module, &sync_spec, NULL),
        PyType_FromModuleAndSpec(module, &async_spec, NULL),
        PyType_FromModuleAndSpec(module, &step_spec, NULL),
    };
    if (!types[0] || !types[1] || !types[2]) return -1;
    step_type = (PyTypeObject *)types[2];
    if (PyModule_AddObjectRef(module, "Loop", types[0]) < 0) return -1;
    return PyModule_AddObjectRef(module, "AsyncLoop", types[1]);
}
