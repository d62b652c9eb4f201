/* SPDX-License-Identifier: Apache-2.0
 *
 * Rule `task`: the evidence. What a Python thread works on shows in its current context.
 *
 * A call belongs to the request that its context, or one that it descends from,
 * will answer. That is known only when the answer is written, so each call leaves
 * its contexts and each answer leaves its own in a ring, and user space joins the
 * two. What cannot wait for that is predicted.
 */
#ifndef WAGGLE_PYTHON_H
#define WAGGLE_PYTHON_H

#include "python_answer.h"
#include "python_call.h"
#include "python_context.h"
#include "python_evidence.h"
#include "python_prediction.h"

#endif
