// A Thallium service and client that move bulk data, for the interoperability tests.
//
//   bulk serve PROTOCOL    prints its address, serves until it is told to shut down
//   bulk call ADDRESS      has a server of this crate move data; exits with 0 if all of it was right
#include <cstdint>
#include <iostream>
#include <numeric>
#include <string>
#include <thallium.hpp>
#include <vector>

namespace tl = thallium;

static std::vector<unsigned char> pattern(size_t size)
{
    std::vector<unsigned char> bytes(size);
    for (size_t i = 0; i < size; i++)
        bytes[i] = static_cast<unsigned char>(i * 31 + i / 256);
    return bytes;
}

static uint64_t sum(const std::vector<unsigned char> &bytes)
{
    return std::accumulate(bytes.begin(), bytes.end(), uint64_t(0));
}

static tl::bulk expose(tl::engine &engine, std::vector<unsigned char> &bytes, tl::bulk_mode mode)
{
    return engine.expose({{bytes.data(), bytes.size()}}, mode);
}

static int serve(const std::string &protocol)
{
    tl::engine engine(protocol, THALLIUM_SERVER_MODE, true, 1);
    engine.enable_remote_shutdown();
    engine.define("take", [&engine](const tl::request &request, tl::bulk data) {
        std::vector<unsigned char> bytes(data.size());
        tl::bulk local = expose(engine, bytes, tl::bulk_mode::write_only);
        data.on(request.get_endpoint()) >> local;
        request.respond(sum(bytes));
    });
    engine.define("give", [&engine](const tl::request &request, tl::bulk data) {
        std::vector<unsigned char> bytes = pattern(data.size());
        tl::bulk local = expose(engine, bytes, tl::bulk_mode::read_only);
        data.on(request.get_endpoint()) << local;
        request.respond(sum(bytes));
    });
    std::cout << static_cast<std::string>(engine.self()) << std::endl;
    engine.wait_for_finalize();
    return 0;
}

static int failures;
static void check(const char *what, size_t size, bool right)
{
    std::cout << what << " of " << size << " bytes: " << (right ? "right" : "WRONG") << std::endl;
    failures += !right;
}

static int call(const std::string &address)
{
    bool shared = address.rfind("na+sm", 0) == 0;
    tl::engine engine(shared ? "na+sm" : "ofi+tcp://127.0.0.1", THALLIUM_CLIENT_MODE);
    auto take = engine.define("take");
    auto give = engine.define("give");
    tl::endpoint server = engine.lookup(address);
    for (size_t size : {size_t(1), size_t(1000), size_t(3000000)}) {
        std::vector<unsigned char> bytes = pattern(size);
        tl::bulk data = expose(engine, bytes, tl::bulk_mode::read_only);
        check("taken", size, static_cast<uint64_t>(take.on(server)(data)) == sum(bytes));
        std::vector<unsigned char> empty(size);
        tl::bulk room = expose(engine, empty, tl::bulk_mode::write_only);
        check("given", size, static_cast<uint64_t>(give.on(server)(room)) == sum(bytes) && empty == bytes);
    }
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
