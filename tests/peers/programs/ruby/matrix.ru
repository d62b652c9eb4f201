# frozen_string_literal: true

require_relative 'matrix'
run Matrix
