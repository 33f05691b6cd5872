// A Thallium service and client that the interoperability tests run against.
//
//   peer serve PROTOCOL    prints its address, serves until it is told to shut down
//   peer call ADDRESS      calls a server of this crate; exits with 0 if every answer was right
#include <cstdint>
#include <iostream>
#include <string>
#include <thallium.hpp>
#include <thallium/serialization/stl/string.hpp>
#include <thallium/serialization/stl/vector.hpp>
#include <vector>

namespace tl = thallium;

static int serve(const std::string &protocol)
{
    tl::engine engine(protocol, THALLIUM_SERVER_MODE, true, 1);
    engine.enable_remote_shutdown();
    engine.define("sum", [](const tl::request &request, int64_t a, int64_t b) { request.respond(a + b); });
    engine.define("greet", [](const tl::request &request, const std::string &name) { request.respond("hello, " + name); });
    engine.define("double", [](const tl::request &request, std::vector<double> values) {
        for (auto &value : values)
            value *= 2;
        request.respond(values);
    });
    std::cout << static_cast<std::string>(engine.self()) << std::endl;
    engine.wait_for_finalize();
    return 0;
}

static int failures;
static void check(const char *what, bool right)
{
    std::cout << what << ": " << (right ? "right" : "WRONG") << std::endl;
    failures += !right;
}

static int call(const std::string &address)
{
    bool shared = address.rfind("na+sm", 0) == 0;
    tl::engine engine(shared ? "na+sm" : "ofi+tcp://127.0.0.1", THALLIUM_CLIENT_MODE);
    auto sum = engine.define("sum");
    auto greet = engine.define("greet");
    auto twice = engine.define("double");
    auto missing = engine.define("missing");
    tl::endpoint server = engine.lookup(address);
    check("sum", static_cast<int64_t>(sum.on(server)(int64_t(40), int64_t(-2))) == 38);
    check("greet", static_cast<std::string>(greet.on(server)(std::string("Thallium"))) == "hello, Thallium");
    std::vector<double> values(40000);
    for (size_t i = 0; i < values.size(); i++)
        values[i] = double(i);
    std::vector<double> doubled = twice.on(server)(values);
    bool right = doubled.size() == values.size();
    for (size_t i = 0; right && i < values.size(); i++)
        right = doubled[i] == 2.0 * double(i);
    check("a vector", right);
    bool refused = false;
    try {
        missing.on(server)();
    } catch (const std::exception &) {
        refused = true;
    }
    check("no such RPC", refused);
    engine.shutdown_remote_engine(server);
    return failures != 0;
}

int main(int argc, char **argv)
{
    std::string role = argc == 3 ? argv[1] : "";
    if (role == "serve")
        return serve(argv[2]);
    if (role == "call")
        return call(argv[2]);
    std::cerr << "usage: " << argv[0] << " serve PROTOCOL | call ADDRESS" << std::endl;
    return 2;
}
