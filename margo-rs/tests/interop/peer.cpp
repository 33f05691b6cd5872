// A Thallium service and client that the interoperability tests run against.
//
//   peer serve PROTOCOL    prints its address, serves until it is told to shut down
//   peer call ADDRESS      calls a server of this crate; exits with 0 if every answer was right
#include <chrono>
#include <cstdint>
#include <iostream>
#include <string>
#include <thallium.hpp>
#include <thallium/serialization/stl/string.hpp>
#include <thallium/serialization/stl/vector.hpp>
#include <vector>

namespace tl = thallium;

#define PROVIDER 42

// A provider with an identity: its sum adds its number, so that nobody takes one for the other.
class adder : public tl::provider<adder> {
public:
    explicit adder(const tl::engine &engine) : tl::provider<adder>(engine, PROVIDER, "adder") { define("sum", &adder::sum); }

private:
    void sum(const tl::request &request, int64_t a, int64_t b) { request.respond(a + b + PROVIDER); }
};

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
    engine.define("values", [](const tl::request &request, bool flag, int8_t tiny, uint16_t small, int32_t medium,
                                uint64_t large, float single, double twice) {
        request.respond(!flag, int8_t(tiny - 1), uint16_t(small + 1), medium * 2, large + 1, single / 2, twice * 4);
    });
    engine.define("join", [](const tl::request &request, const std::vector<std::string> &words) {
        std::string joined;
        for (const auto &word : words)
            joined += word;
        request.respond(joined);
    });
    adder provider(engine);
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
    auto values_of = engine.define("values");
    auto join = engine.define("join");
    auto fail = engine.define("fail");
    auto hang = engine.define("hang");
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
    std::tuple<bool, int8_t, uint16_t, int32_t, uint64_t, float, double> others =
        values_of.on(server)(true, int8_t(-8), uint16_t(65534), int32_t(-70000), uint64_t(1) << 60, 1.5f, 1e300);
    check("values", others == std::make_tuple(false, int8_t(-9), uint16_t(65535), int32_t(-140000),
                                  (uint64_t(1) << 60) + 1, 0.75f, 4e300));
    std::string joined = join.on(server)(std::vector<std::string>{"a", "", "longer"});
    check("a vector of strings", joined == "alonger");

    tl::provider_handle provider(server, PROVIDER);
    check("sum of a provider", static_cast<int64_t>(sum.on(provider)(int64_t(40), int64_t(-2))) == 80);
    check("identity", provider.get_identity() == "adder");
    bool failed = false;
    try {
        fail.on(server)();
    } catch (const tl::margo_exception &) {
        failed = true;
    }
    check("a failing handler", failed);
    bool late = false;
    try {
        hang.on(server).timed(std::chrono::milliseconds(50));
    } catch (const tl::timeout &) {
        late = true;
    }
    check("a deadline", late);
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
