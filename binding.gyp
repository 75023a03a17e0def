{
  "targets": [{
    "target_name": "vfio",
    "conditions": [["OS=='linux'", {
      "sources": ["native/vfio.cc"],
      "include_dirs": ["<!(node native/node-addon-api.mjs)"],
      "defines": ["NAPI_VERSION=8", "NAPI_CPP_EXCEPTIONS", "NODE_ADDON_API_CPP_EXCEPTIONS_ALL", "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS"],
      "cflags": ["-iquote<(module_root_dir)/native", "-Wall", "-Wextra", "-fvisibility=hidden", "-fno-plt", "-ffunction-sections", "-fdata-sections"],
      "cflags!": ["-O3", "-fno-omit-frame-pointer", "-fno-exceptions"],
      "cflags_cc": ["-std=c++17", "-Os", "-flto=auto", "-fno-rtti", "-fvisibility-inlines-hidden"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20", "-O3", "-fno-exceptions"],
      "ldflags": ["-flto=auto", "-Os", "-Wl,-z,relro,-z,now", "-Wl,-z,nodelete", "-Wl,-z,noseparate-code", "-Wl,--gc-sections", "-Wl,--as-needed",
                  "-Wl,--version-script=<(module_root_dir)/native/exports.map"]
    }]]
  }]
}
