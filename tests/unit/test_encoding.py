"""The columnar encoder against the slow path: both must give the same spans."""

import os
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.trace.v1 import trace_pb2
from records import NO_PARENT, batch, record, resource_table
from waggle.columns import copy_slices, equal_slices, gather_bytes
from waggle.exporter import encoding, templates
from waggle.exporter.encoding import OtlpEncoder
from waggle.exporter.messages import resource_message, span_message
from waggle.layout import End, Flag, Kept, Link, Method, Role
from waggle.spans import Records, ResourceTable, SpanBatch, decode_span
