// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ask, Bid, CloseData, Numbered, Prices, Quote, Relay, TierLimit} from "../../src/interfaces/IComputeEscrow.sol";

/// @notice EIP-712 by the book, member by member from memory: what the escrow's hashing is checked against.
library TypedData {
    string internal constant PRICES =
        "Prices(uint64 gpuHour,uint64 cpuHour,uint64 memoryGibHour,uint64 storageGibHour,uint64 egressGib,uint64 unit)";
    string internal constant LIMIT = "TierLimit(bytes32 tier,uint64 rate,uint64 egressGib,uint64 unit)";
    string internal constant ASK =
        "Ask(address provider,address meter,address opener,uint24 node,bytes32 tier,uint32 gpuMilli,uint32 cpuMilli,uint32 memoryMib,uint32 storageMib,Prices floor,uint32 minSeconds,uint32 maxSeconds,uint16 startLimitSeconds,uint16 noticeSeconds,bytes32 unit,uint40 startsAt,uint16 flags,uint16 maxFeeBps,uint40 expiry,uint64 salt)";
    string internal constant QUOTE = "Quote(bytes32 askHash,Prices prices,uint40 expiry)";
    string internal constant BID =
        "Bid(address buyer,address witness,address opener,bytes32 jobHash,TierLimit[] limits,uint32 gpuMilli,uint32 cpuMilli,uint32 memoryMib,uint32 storageMib,uint32 egressMib,uint32 units,bytes32 unit,uint32 maxSeconds,uint16 maxStartSeconds,uint16 minNoticeSeconds,uint128 budget,uint16 nodes,uint16 flags,uint16 maxFeeBps,uint40 expiry,uint64 salt)";
    string internal constant USAGE = "Usage(address buyer,address provider,bytes16 leaseNo,uint64 ms)";
    string internal constant METERED =
        "MeteredUsage(address buyer,address provider,bytes16 leaseNo,uint64 ms,uint32 egressMib,uint32 units)";
    string internal constant STOP = "Stop(address buyer,address provider,bytes16 leaseNo,bool again,uint40 deadline)";
    string internal constant CLOSE =
        "Close(address buyer,address provider,bytes16 leaseNo,uint64 ms,uint32 egressMib,uint32 units,bool again)";
    string internal constant CANCEL = "Cancel(address account,uint8 kind,uint64 salt,bool andOlder)";
    string internal constant WITHDRAW =
        "Withdraw(address account,address to,uint256 amount,uint64 salt,uint40 deadline,address relayer,uint96 fee)";
    string internal constant TOP_UP =
        "TopUp(address buyer,address provider,bytes16 leaseNo,uint32 addSeconds,uint64 salt,uint40 deadline,address relayer,uint96 fee)";
    string internal constant DOMAIN =
        "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)";

    function domain(uint256 chainId, address escrow) internal pure returns (bytes32) {
        return keccak256(abi.encode(keccak256(bytes(DOMAIN)), keccak256("Coulomb"), keccak256("1"), chainId, escrow));
    }

    function digest(bytes32 domain_, bytes32 structHash) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domain_, structHash));
    }

    function hash(Prices memory p) internal pure returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256(bytes(PRICES)), p.gpuHour, p.cpuHour, p.memoryGibHour, p.storageGibHour, p.egressGib, p.unit
            )
        );
    }

    function hash(TierLimit memory l) internal pure returns (bytes32) {
        return keccak256(abi.encode(keccak256(bytes(LIMIT)), l.tier, l.rate, l.egressGib, l.unit));
    }

    function hash(Ask memory a) internal pure returns (bytes32) {
        bytes memory parties =
            abi.encode(keccak256(abi.encodePacked(ASK, PRICES)), a.provider, a.meter, a.opener, a.node, a.tier);
        bytes memory sizes = abi.encode(a.gpuMilli, a.cpuMilli, a.memoryMib, a.storageMib, hash(a.floor));
        bytes memory times = abi.encode(a.minSeconds, a.maxSeconds, a.startLimitSeconds, a.noticeSeconds, a.unit);
        bytes memory rest = abi.encode(a.startsAt, a.flags, a.maxFeeBps, a.expiry, a.salt);
        return keccak256(bytes.concat(parties, sizes, times, rest));
    }

    function hash(Quote memory q) internal pure returns (bytes32) {
        return keccak256(abi.encode(keccak256(abi.encodePacked(QUOTE, PRICES)), q.askHash, hash(q.prices), q.expiry));
    }

    function hash(Bid memory b) internal pure returns (bytes32) {
        bytes32[] memory limits = new bytes32[](b.limits.length);
        for (uint256 i = 0; i < limits.length; i++) {
            limits[i] = hash(b.limits[i]);
        }
        bytes memory parties = abi.encode(
            keccak256(abi.encodePacked(BID, LIMIT)),
            b.buyer,
            b.witness,
            b.opener,
            b.jobHash,
            keccak256(abi.encodePacked(limits))
        );
        bytes memory sizes = abi.encode(b.gpuMilli, b.cpuMilli, b.memoryMib, b.storageMib, b.egressMib, b.units);
        bytes memory money = abi.encode(b.unit, b.maxSeconds, b.maxStartSeconds, b.minNoticeSeconds, b.budget, b.nodes);
        bytes memory rest = abi.encode(b.flags, b.maxFeeBps, b.expiry, b.salt);
        return keccak256(bytes.concat(parties, sizes, money, rest));
    }

    function usage(address buyer, address provider, bytes16 leaseNo, uint64 ms) internal pure returns (bytes32) {
        return keccak256(abi.encode(keccak256(bytes(USAGE)), buyer, provider, leaseNo, ms));
    }

    function metered(address buyer, address provider, bytes16 leaseNo, uint64 ms, uint32 egressMib, uint32 units)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(keccak256(bytes(METERED)), buyer, provider, leaseNo, ms, egressMib, units));
    }

    function stop(address buyer, address provider, bytes16 leaseNo, bool again, uint40 deadline)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(keccak256(bytes(STOP)), buyer, provider, leaseNo, again, deadline));
    }

    function close(CloseData memory c) internal pure returns (bytes32) {
        return keccak256(
            abi.encode(keccak256(bytes(CLOSE)), c.buyer, c.provider, c.leaseNo, c.ms, c.egressMib, c.units, c.again)
        );
    }

    function cancel(address account, Numbered kind, uint64 salt, bool andOlder) internal pure returns (bytes32) {
        return keccak256(abi.encode(keccak256(bytes(CANCEL)), account, uint8(kind), salt, andOlder));
    }

    function withdraw(address account, address to, uint256 amount, Relay memory relay) internal pure returns (bytes32) {
        return keccak256(bytes.concat(abi.encode(keccak256(bytes(WITHDRAW)), account, to, amount), _encode(relay)));
    }

    function topUp(address buyer, address provider, bytes16 leaseNo, uint32 addSeconds, Relay memory relay)
        internal
        pure
        returns (bytes32)
    {
        bytes memory lease = abi.encode(keccak256(bytes(TOP_UP)), buyer, provider, leaseNo, addSeconds);
        return keccak256(bytes.concat(lease, _encode(relay)));
    }

    function _encode(Relay memory relay) private pure returns (bytes memory) {
        return abi.encode(relay.salt, relay.deadline, relay.relayer, relay.fee);
    }
}
