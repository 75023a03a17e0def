#pragma once

#include <napi.h>

#include <cstddef>
#include <cstdint>

#include "object.h"
#include "util/fd.h"
#include "util/ioctl.h"

namespace vfio {

/** A member of a structure of the kernel: where the next argument goes, or where the answer is. */
struct Member {
  enum Kind : uint8_t {
    kNone,
    kU16,
    kU32,
    kU64,
    /** A descriptor of the caller's. */
    kDescriptor,
    /** Mapped memory, with two more arguments: its address, and in the next member of 64 bits its size. */
    kMemory,
    /** An Iommufd. */
    kIommufd,
    /** Bytes or null, by address; before it their number, in 32 bits. */
    kBytes,
    /** Pairs of 64-bit words, by address; two members of 32 bits before it, their number. */
    kPairs,
    /** 32 bits or null; where they are given, the lowest bit of the flags is set. */
    kOptionalU32,
    /** The same for 16 bytes, by address. */
    kOptionalToken,
  };
  Kind kind = kNone;
  uint8_t at = 0;
};

#define VFIO_MEMBER(kind, type, member) \
  ::vfio::Member { ::vfio::Member::kind, offsetof(::vfio::uapi::type, member) }

/** One of several answers; one without a name ends them. */
struct NamedAnswer {
  const char* name = nullptr;
  Member member;
};

/**
 * An ioctl on a structure that begins with its size, told as a table: most requests differ in nothing but which argument
 * goes where.
 */
struct Command {
  /** Where such a structure has flags. */
  static constexpr size_t kFlags = 4;
  static constexpr size_t kMostMembers = 6;
  static constexpr size_t kMostBytes = 48;

  Request request;
  /** What it is called off the main thread, where there is a promise for it; null where it is made at once. */
  const char* work;
  uint8_t size;
  /** In the order of the arguments; the first without a kind ends them. */
  Member members[kMostMembers];
  Member answer;
  const NamedAnswer* answers = nullptr;
  /** What follows on the same file and thread where this succeeds, with the arguments after these: of another thread it would wait. */
  const Command* then = nullptr;

  /** How many arguments its members take. */
  constexpr size_t arguments() const {
    size_t count = 0;
    for (const Member& member : members) {
      if (member.kind != Member::kNone) count += member.kind == Member::kMemory ? 3 : 1;
    }
    return count + (then == nullptr ? 0 : then->arguments());
  }
};

/** The data of a method that is a command. */
struct CommandMethod : Object::MethodOf {
  const Command* command;
};
Napi::Value CallCommand(Object& self, const Napi::CallbackInfo& info);

}  // namespace vfio
