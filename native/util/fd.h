#pragma once

#include <unistd.h>

#include <memory>
#include <string>
#include <utility>

namespace vfio {

/** An open descriptor and what to call it in errors. Shared: running work keeps it open after its handle was
 * closed. */
class Fd {
 public:
  Fd(int number, std::string path) : number_(number), path_(std::move(path)) {}
  ~Fd() { ::close(number_); }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;

  int number() const { return number_; }
  const std::string& path() const { return path_; }

 private:
  const int number_;
  const std::string path_;
};

using SharedFd = std::shared_ptr<const Fd>;

}  // namespace vfio
