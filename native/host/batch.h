#pragma once

#include <errno.h>
#include <napi.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

#include <functional>
#include <vector>

#include "util/populated.h"

namespace vfio {

// Bytes of all entries one behind the other, and for each entry where it starts and how long it is. Equal ones are kept
// once: thousands of functions say the same of themselves, and whoever reads knows it by where they start.
class Batch {
 public:
  Batch() : table_(1024, -1) {}

  void Fail(int error) {
    spans.push_back(-error);
    spans.push_back(0);
  }

  void Add(const uint8_t* bytes, size_t length) {
    spans.push_back(Keep(bytes, length));
    spans.push_back(static_cast<int32_t>(length));
  }

  // Keeps what `read(into, limit)` brings.
  template <typename Read>
  void Take(uint32_t limit, Read read) {
    if (scratch_.size() < limit) scratch_.resize(limit);
    ssize_t length = read(scratch_.data(), limit);
    if (length < 0) return Fail(errno);
    Add(scratch_.data(), static_cast<size_t>(length));
  }

  // { data, spans } of parts that follow each other, copied once into memory that JavaScript owns: external buffers are
  // forbidden in some runtimes.
  static Napi::Object ToObject(Napi::Env env, const std::vector<Batch>& parts) {
    size_t size = 0, count = 0;
    for (const Batch& part : parts) {
      size += part.data.size();
      count += part.spans.size();
    }
    Napi::Uint8Array bytes = Napi::Uint8Array::New(env, size);
    Napi::Int32Array numbers = Napi::Int32Array::New(env, count);
    Populate(bytes.Data(), size);
    Populate(numbers.Data(), count * sizeof(int32_t));
    size_t shift = 0, at = 0;
    for (const Batch& part : parts) {
      for (size_t i = 0; i < part.spans.size(); i += 2) {
        const int32_t start = part.spans[i];
        numbers[at++] = start < 0 ? start : start + static_cast<int32_t>(shift);
        numbers[at++] = part.spans[i + 1];
      }
      if (!part.data.empty()) memcpy(bytes.Data() + shift, part.data.data(), part.data.size());
      shift += part.data.size();
    }
    Napi::Object result = Napi::Object::New(env);
    result.Set("data", bytes);
    result.Set("spans", numbers);
    return result;
  }

  std::vector<uint8_t, Populated<uint8_t>> data;
  std::vector<int32_t, Populated<int32_t>> spans;

 private:
  struct Kept {
    uint64_t hash;
    int32_t start;
    size_t length;
  };

  static uint64_t Word(const uint8_t* bytes) {
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
  }

  static uint64_t Mix(uint64_t hash, uint64_t word) {
    hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 32;
  }

  static uint64_t Hash(const uint8_t* bytes, size_t length) {
    uint64_t hash = length, second = 1, third = 2, fourth = 3;
    size_t at = 0;
    // Each waits for its own last step alone: a config space has hundreds of them.
    for (; at + 32 <= length; at += 32) {
      hash = Mix(hash, Word(bytes + at));
      second = Mix(second, Word(bytes + at + 8));
      third = Mix(third, Word(bytes + at + 16));
      fourth = Mix(fourth, Word(bytes + at + 24));
    }
    if (at > 0) hash = Mix(Mix(Mix(hash, second), third), fourth);
    for (; at + 8 <= length; at += 8) hash = Mix(hash, Word(bytes + at));
    uint64_t rest = 0;
    memcpy(&rest, bytes + at, length - at);
    return at < length ? Mix(hash, rest) : hash;
  }

  // Where these bytes are, once they are there.
  int32_t Keep(const uint8_t* bytes, size_t length) {
    if (2 * kept_.size() >= table_.size()) Grow();
    const uint64_t hash = Hash(bytes, length);
    const size_t mask = table_.size() - 1;
    size_t at = hash & mask;
    for (; table_[at] >= 0; at = (at + 1) & mask) {
      const Kept& known = kept_[static_cast<size_t>(table_[at])];
      if (known.hash == hash && known.length == length &&
          (length == 0 || memcmp(data.data() + known.start, bytes, length) == 0))
        return known.start;
    }
    table_[at] = static_cast<int32_t>(kept_.size());
    kept_.push_back({hash, static_cast<int32_t>(data.size()), length});
    data.insert(data.end(), bytes, bytes + length);
    return kept_.back().start;
  }

  void Grow() {
    table_.assign(2 * table_.size(), -1);
    const size_t mask = table_.size() - 1;
    for (size_t index = 0; index < kept_.size(); index++) {
      size_t at = kept_[index].hash & mask;
      while (table_[at] >= 0) at = (at + 1) & mask;
      table_[at] = static_cast<int32_t>(index);
    }
  }

  std::vector<uint8_t> scratch_;
  std::vector<Kept, Populated<Kept>> kept_;
  // Indices of `kept_` by hash, -1 for none; its size is a power of two.
  std::vector<int32_t, Populated<int32_t>> table_;
};

/** The function that waits for some work in a thread beside, and answers what it brought as { data, spans }; once. */
Napi::Function Beside(Napi::Env env, std::function<std::vector<Batch>()> work);

}  // namespace vfio
