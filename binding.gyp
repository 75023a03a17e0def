{
  "targets": [{
    "target_name": "vfio",
    "dependencies": ["<!(node -p \"require('node-addon-api').targets\"):node_addon_api_except_all"],
    "conditions": [["OS=='linux'", {
      "sources": ["<!@(node -p \"require('./native/sources.json').join(' ')\")"],
      "defines": ["NAPI_VERSION=8", "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS"],
      "cflags": ["-iquote<(module_root_dir)/native", "-Wall", "-Wextra", "-fvisibility=hidden", "-fno-plt", "-ffunction-sections", "-fdata-sections"],
      "cflags!": ["-O3", "-fno-omit-frame-pointer"],
      "cflags_cc": ["-std=c++17", "-Os", "-flto=auto", "-fvisibility-inlines-hidden"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20", "-O3", "-fno-rtti"],
      "ldflags": ["-flto=auto", "-Os", "-Wl,-z,relro,-z,now", "-Wl,-z,nodelete", "-Wl,-z,noseparate-code", "-Wl,--gc-sections", "-Wl,--as-needed",
                  "-Wl,--version-script=<(module_root_dir)/native/exports.map"]
    }]]
  }]
}
